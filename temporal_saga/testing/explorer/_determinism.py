"""What other processes and the SDK's sandbox show of a workflow, once for each exploration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from temporal_saga.testing.simulator import ActivityFault, Fault, UnusedFaultsError, cancel

from ._checks import Objection
from ._elsewhere import Elsewhere
from ._exploration import Exploration
from ._findings import Findings
from ._look import shown
from ._plans import Plan, points_of
from ._runner import PlanError, Runner

__all__ = ["check_determinism"]

_MOST = 3  # of the cancels, and of the failures

T = TypeVar("T")


def check_determinism(
    runner: Runner[Any, Any], findings: Findings, exploration: Exploration, elsewhere: Elsewhere
) -> None:
    """Replay some runs in other processes, and run the workflow without faults in the sandbox.

    What cannot be done is said in the exploration's notes.
    """
    only = exploration.plan
    if only is not None and len(only) > 1:
        return  # what is found here takes one fault at most
    happy = runner.run(())[0]
    for plan in _some_plans(happy) if only is None else [only]:
        try:
            elsewhere.add(plan, runner.run(plan)[0] if plan else happy)
        except (UnusedFaultsError, PlanError):
            continue
    for plan, where in elsewhere.replay(runner.known.varying):
        said = f"a replay in another process gives other commands: {where}"
        findings.note(plan, shown(runner.run(plan)[0]), [Objection("replay differs", said)])
    if elsewhere.note:
        exploration.notes.append(f"not replayed in another process: {elsewhere.note}")
    if only:
        return
    objections, note = runner.check_in_sandbox(happy)
    if objections:
        findings.note((), shown(happy), objections)
    if note:
        exploration.notes.append(f"not run in the sandbox: {note}")


def _some_plans(happy: Any) -> list[Plan]:
    points = points_of(happy)
    cancels: list[Fault] = [cancel(at=at) for at in range(2, points.activations + 1)]
    failures: list[Fault] = [ActivityFault("fails_after", call.label, call.nth) for call in points.calls]
    return [(), *((fault,) for fault in (*_spread(cancels), *_spread(failures)))]


def _spread(found: Sequence[T]) -> list[T]:
    """Return so many of these, the first and the last among them."""
    if len(found) <= _MOST:
        return list(found)
    return [found[number * (len(found) - 1) // (_MOST - 1)] for number in range(_MOST)]
