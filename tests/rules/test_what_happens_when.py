"""Rows of "What happens when" that no rule has: what a user meets at the edge of the promise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType

from temporal_saga import Compensation, Saga
from tests.driver import Run, cancel, cancelled, completed, failed, signal, timed_out, timer
from tests.rules.cancelling import PLUGIN, TaskGroup, background, both, counts, timeout
from tests.rules.workflows import OPTIONS, REFUSED, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")


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


@counts
@both
def test_a_task_group_goes_on_after_a_held_caller(options: dict[str, Any]) -> None:
    """A limit that the page names: to a `TaskGroup` the `CancelledError` of a held caller is the end of its task."""

    @flow
    async def body() -> str:
        async def branch(saga: Saga) -> None:
            async with TaskGroup() as group:
                group.create_task(do(saga, "pack"))
            await workflow.execute_activity("ship", **OPTIONS)

        try:
            async with new_saga() as saga:
                task = asyncio.create_task(branch(saga))
                await do(saga, "pay")
        except ActivityError:
            await asyncio.wait([task])
        return "shipped"

    run = Run(body, **options).start()
    run.activate(failed("pay", REFUSED))
    run.activate(cancelled("pack"))
    run.autopilot({})
    assert run.history == ["pay", "pack", "undo_pack", "undo_pay", "ship"]
    run.check()


def test_a_failing_handlers_error_hides_an_incomplete_saga(caplog: pytest.LogCaptureFixture) -> None:
    """A limit that the page names: a run closes with one error, and the handler's was first. The log names the rest."""
    run = Run(Interrupted, **PLUGIN).start()
    run.activate(completed("a"))
    run.activate(signal("fail"))
    run.autopilot({"undo_a": REFUSED})
    assert end(run) == "InTheHandler"
    (report,) = run.query("saga_report")
    assert report["state"] == "INCOMPLETE"
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "'a'" in error.getMessage()
    run.check()


@workflow.defn
class Interrupted:
    """Waits in a saga until a signal handler fails."""

    @workflow.run
    async def run(self) -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.sleep(1000)

    @workflow.signal
    async def fail(self) -> None:
        raise ApplicationError("failed", type="InTheHandler")


@both
@pytest.mark.parametrize("whose", ["the workflow's", pytest.param("a timeout's", marks=counts)])
def test_an_except_around_an_incomplete_saga_swallows_its_cancel(options: dict[str, Any], whose: str) -> None:
    """A limit that the page names: the saga tells what stands in place of the cancel, and the body may go on."""

    @flow
    async def body() -> str:
        async def work() -> None:
            try:
                async with new_saga() as saga:
                    await do(saga, "a")
                    await asyncio.sleep(1000)
            except ApplicationError:
                await asyncio.sleep(1000)

        if whose == "the workflow's":
            await work()
        else:
            async with timeout(5):
                await work()
        return "went on"

    run = Run(body, **options).start()
    run.activate(completed("a"))
    run.activate(cancel() if whose == "the workflow's" else timer())
    run.autopilot({"undo_a": REFUSED})
    assert undone(run) == ["undo_a"]
    assert end(run) == "went on"
    run.check()


def test_a_savepoints_callback_that_awaits_a_held_task_hangs() -> None:
    """A limit that the page names: the task is held until the whole has unwound, which waits for the callback."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:

            async def late() -> None:
                await asyncio.sleep(5)
                await do(saga, "late")

            task = asyncio.create_task(late())

            async def callback() -> None:
                await asyncio.wait([task])

            async def attempt() -> None:
                async with saga.savepoint() as savepoint:
                    savepoint.add_callback(callback)
                    raise REFUSED

            background(attempt())
            await do(saga, "pay")

    run = Run(body).start()
    run.activate(failed("pay", REFUSED))
    run.activate(timer())
    assert run.closed is None
    assert (run.names, run.timers) == ([], [])
    run.evict()
