"""With `SagaPlugin` the workflow's cancel is held after the pivot wherever the body waits."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.exceptions import ActivityError

from temporal_saga import Saga
from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, completed, failed, timer
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone


@pytest.mark.parametrize("where", ["a step", "a sleep", "branches", "a savepoint"])
def test_pivot_with_the_plugin_the_body_goes_on_to_its_end(where: str) -> None:
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            if where == "a step":
                await do(saga, "b")
            elif where == "a sleep":
                await asyncio.sleep(60)
            elif where == "branches":
                await asyncio.gather(do(saga, "b"), asyncio.sleep(60))
            else:
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                    await asyncio.sleep(60)
            await do(saga, "record")
        return "not the end of the run"

    run = Run(flow(body), plugins=[SagaPlugin()]).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert run.closed is None
    if where != "a sleep":
        run.activate(completed("b"))
    if where != "a step":
        run.activate(timer())
    assert run.names == ["record"]
    run.activate(completed("record"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("where", ["the saga", "a savepoint", "a task"])
def test_pivot_with_the_plugin_a_second_pivot_does_not_raise_the_held_cancel(where: str) -> None:
    """Not even in the activation in which the cancel comes: the cancel waits until the saga has ended."""

    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.pivot()
            await do(saga, "b")

            async def way() -> None:
                async with saga.savepoint() as attempt:
                    attempt.pivot()

            if where == "the saga":
                saga.pivot()
            elif where == "a savepoint":
                await way()
            else:
                await asyncio.create_task(way())
            await do(saga, "record")
        return "not the end of the run"

    run = Run(flow(body), plugins=[SagaPlugin()]).start()
    run.activate(completed("a"))
    run.activate(cancel(), completed("b"))
    assert run.names == ["record"]
    run.activate(completed("record"))
    assert undone(run) == []
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_a_second_pivot_after_the_cancel_undoes_nothing() -> None:
    """Without the plugin too: it does not make the cancel one that came before the pivot."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            saga.pivot()
            await do(saga, "a")
            try:
                await asyncio.sleep(60)
            finally:
                saga.pivot()
                await do(saga, "b")
        return "not the end of the run"

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.autopilot({})
    assert run.history == ["a", "b"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_with_the_plugin_a_failure_that_is_caught_meets_the_held_cancel() -> None:
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                saga.pivot()
                await asyncio.sleep(60)
                await do(saga, "b")
        except ActivityError:
            await asyncio.sleep(60)
        return "not the end of the run"

    run = Run(flow(body), plugins=[SagaPlugin()]).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(timer())
    run.autopilot({"b:do": REFUSED})
    assert undone(run) == ["undo_b"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_with_the_plugin_a_saga_before_its_pivot_is_cancelled_at_once() -> None:
    async def body() -> None:
        async with new_saga("first") as saga:
            saga.pivot()
        async with new_saga("second") as saga:
            await do(saga, "a")
            await asyncio.sleep(60)

    run = Run(flow(body), plugins=[SagaPlugin()]).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_pivot_with_the_plugin_a_timeout_still_ends_a_wait() -> None:
    async def then(saga: Saga) -> str:
        try:
            await asyncio.wait_for(asyncio.sleep(60), 1)
        except asyncio.TimeoutError:
            return "timed out"
        return "waited"

    async def body() -> str:
        async with new_saga() as saga:
            saga.pivot()
            said = await then(saga)
            await do(saga, said)
        return "not the end of the run"

    run = Run(flow(body), plugins=[SagaPlugin()]).start()
    run.activate(cancel())
    run.activate(timer())
    assert run.names == ["timed out"]
    run.autopilot({})
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["without", "with"])
def test_rule_05_a_cancel_kept_by_an_unwind_spares_a_run_that_awaits_no_more(plugins: list[SagaPlugin]) -> None:
    async def body() -> str:
        try:
            async with new_saga() as saga:
                await do(saga, "a")
                await do(saga, "b")
        except ActivityError:
            return "an answer"
        return "well"

    run = Run(flow(body), plugins=plugins).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    run.activate(cancel())
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "an answer"
    run.check()


def test_pivot_with_the_plugin_a_saga_in_a_background_task_holds_the_workflows_cancel() -> None:
    async def background() -> None:
        async with new_saga("background") as saga:
            saga.pivot()
            await do(saga, "x")

    async def body() -> None:
        task = asyncio.create_task(background())
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.sleep(60)
        await task

    run = Run(flow(body), plugins=[SagaPlugin()]).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert run.names == ["x"]
    run.activate(completed("x"))
    assert run.names == ["undo_a"]
    run.autopilot({})
    assert end(run) == "Cancelled"
    run.check()
