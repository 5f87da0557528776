"""Fault plans for Hypothesis, which shrinks a failing plan to a shortest one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from temporal_saga.testing.simulator import Fault, UnusedFaultsError

from ._explore import check_options
from ._plans import KINDS, FaultKind, check_choice, decisions, events_of, longer, points_of
from ._runner import PlanError, Runner

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def fault_plans(
    workflow_run: Callable[..., Awaitable[Any]],
    *args: Any,
    setup: Callable[[], Any],
    faults: int = 2,
    kinds: Collection[FaultKind] = KINDS,
    signals: Sequence[Any] = (),
    updates: Sequence[Any] = (),
    **options: Any,
) -> SearchStrategy[list[Fault]]:
    """Return a Hypothesis strategy of plans of up to `faults` faults.

        @given(plan=fault_plans(MoneyTransfer.run, transfer, setup=setup, faults=3))
        def test_three_faults(plan):
            explore(MoneyTransfer.run, transfer, setup=setup, check=check, plan=plan)

    Each fault is drawn from the points of a run with those before it, so that compensations are struck too. A failing
    plan shrinks to fewer faults, then to earlier points, then to the simpler kinds. Hypothesis has to be installed.

    Args:
        workflow_run: As for `explore`, as are the others.
        args: The workflow's arguments.
        setup: Makes the world of a run.
        faults: Up to how many faults.
        kinds: The kinds of faults.
        signals: Signals that may come at any point.
        updates: Updates, in the same way.
        options: For `simulate`.
    """
    from hypothesis import strategies as st

    check_choice(faults, kinds)
    check_options(options)
    runner: Runner[Any, Any] = Runner(workflow_run, args, setup, options=options)
    events = events_of(signals, updates)

    @st.composite
    def plans(draw: Any) -> list[Fault]:
        plan: tuple[Fault, ...] = ()
        run, _ = runner.run(plan)
        for _ in range(faults):
            points = points_of(run)
            found = [*decisions(plan, points, kinds), *longer(plan, points, kinds, events)]
            # None comes first: Hypothesis shrinks towards what comes first in a list.
            fault = draw(st.sampled_from([None, *found]))
            if fault is None:
                break
            try:
                run, _ = runner.run((*plan, fault))
            except (UnusedFaultsError, PlanError):  # as `explore(plan=...)` would say
                break
            plan = (*plan, fault)
        # Now and then a fault is taken out again: on 0, to which Hypothesis shrinks. So shrinking can drop a fault that
        # was not needed, and keep those behind it, which were drawn from the points of its run.
        shorter = [fault for fault in plan if draw(st.integers(0, 9))]
        if len(shorter) < len(plan):
            with suppress(UnusedFaultsError, PlanError):
                runner.run(tuple(shorter))
                return shorter
        return list(plan)

    return plans()
