"""Rows of "What happens when" that no rule has: what a user meets at the edge of the promise."""

from __future__ import annotations

from temporalio.exceptions import TimeoutType

from temporal_saga import Compensation
from tests.driver import Run, cancel, completed, timed_out
from tests.rules.workflows import REFUSED, cancels, do, end, flow, new_saga, undone


def test_an_argument_that_changes_reaches_the_undo_as_it_is_then() -> None:
    """The step's own copy went to the server when it began; that of its undo goes when the undo begins."""

    @flow
    async def body() -> None:
        items = ["apple"]
        async with new_saga() as saga:
            await saga.execute_activity("a", items, compensation="undo_a")
            await do(saga, "b", compensation=Compensation("undo_b", list(items)))
            items.append("pear")
            raise REFUSED

    run = Run(body).autopilot({})
    arguments = {activity.name: activity.args for activity in run.scheduled}
    assert arguments["a"] == [["apple"]]
    assert arguments["undo_a"] == [["apple", "pear"]]
    assert arguments["undo_b"] == [["apple"]]  # a copy
    run.check()


def test_rule_06_a_step_that_nobody_completes_holds_the_unwind_until_it_times_out() -> None:
    """Completed from outside, by a task token: no worker has it in hand that could end it."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "from_outside")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert cancels(run) == ["from_outside"]
    assert run.names == ["from_outside"]
    run.activate(timed_out("from_outside", TimeoutType.START_TO_CLOSE))
    run.autopilot({})
    assert undone(run) == ["undo_from_outside", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()
